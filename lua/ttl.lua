-- Tells how long locks are still held.
--
-- KEYS     the locks' keys
-- ARGV[1]  the value: token and metadata
--
-- Reply: the shortest TTL in milliseconds, rounded down, if all keys have the value;
-- else 0. A key that somebody has made persistent does not count.

local shortest
for _, key in ipairs(KEYS) do
	if redis.call('get', key) ~= ARGV[1] then
		return 0
	end
	local ttl = redis.call('pttl', key)
	if ttl >= 0 and (not shortest or ttl < shortest) then
		shortest = ttl
	end
end
return shortest or 0
