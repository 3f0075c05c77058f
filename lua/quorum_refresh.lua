-- Gives held locks a new TTL, on one node of a quorum.
--
-- KEYS     the locks' keys
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
--
-- Reply: 1 if all keys had the value and have the TTL now; 0 if one has another
-- value; if only keys are missing, the node's time in milliseconds, negative.
-- Unless it is 1 nothing was changed.

local missing = false
for _, key in ipairs(KEYS) do
	local value = redis.call('get', key)
	if not value then
		missing = true
	elseif value ~= ARGV[1] then
		return 0
	end
end
if missing then
	local now = redis.call('time')
	return -(now[1] * 1000 + math.floor(now[2] / 1000))
end
for _, key in ipairs(KEYS) do
	redis.call('pexpire', key, ARGV[2])
end
return 1
