-- Takes one lock, if its key is free, or if the same token holds it already.
--
-- KEYS[1]  the lock's key
-- ARGV     the three of token.lua
--
-- Reply: 1 if the token holds the lock now, 0 if somebody else does.

if redis.call('set', KEYS[1], value, 'nx', 'px', ttl) then
	return 1
end
if not mine(redis.call('getrange', KEYS[1], 0, length - 1)) then
	return 0
end
redis.call('set', KEYS[1], value, 'px', renewed(KEYS[1]))
return 1
