-- Takes one lock: if its key is free, or if the same token holds it already.
--
-- KEYS[1]  the lock's key
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  the length of the token in bytes; missing if it was generated for this call
--
-- Reply: 1 if the lock is held by the token now, 0 if by somebody else.

if redis.call('set', KEYS[1], ARGV[1], 'nx', 'px', ARGV[2]) then
	return 1
end
-- The token's own value may be here from an earlier run of this very call whose
-- reply was lost, so that a client that repeats it must be told "yes" again. If this is
-- the earlier run, and late, the holder may have refreshed the lock for longer since.
local length = tonumber(ARGV[3] or 22)
if redis.call('getrange', KEYS[1], 0, length - 1) ~= string.sub(ARGV[1], 1, length) then
	return 0
end
if not ARGV[3] and redis.call('pttl', KEYS[1]) > tonumber(ARGV[2]) then
	return 1
end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
return 1
