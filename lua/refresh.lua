-- Gives held locks a new TTL.
--
-- KEYS     the locks' keys
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  0 if keys that have a longer TTL keep it; else missing
--
-- Reply: 1 if all keys had the value and have the TTL now, or the longer one, else 0 and
-- nothing was changed.

for _, key in ipairs(KEYS) do
	if redis.call('get', key) ~= ARGV[1] then
		return 0
	end
end
for _, key in ipairs(KEYS) do
	if not ARGV[3] or redis.call('pttl', key) < tonumber(ARGV[2]) then
		redis.call('pexpire', key, ARGV[2])
	end
end
return 1
