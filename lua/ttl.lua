-- Tells how long locks are still held.
--
-- KEYS     the locks' keys
-- ARGV[1]  the value: token and metadata
--
-- Reply: the shortest TTL in milliseconds, at least 1, if all keys have the
-- value, else 0.

local shortest
for _, key in ipairs(KEYS) do
	if redis.call('get', key) ~= ARGV[1] then
		return 0
	end
	local ttl = redis.call('pttl', key)
	if not shortest or ttl < shortest then
		shortest = ttl
	end
end
-- 0 is the last fraction of a millisecond, -1 a key that somebody made persist.
return math.max(shortest, 1)
