-- Takes a lock that may have several holders, if it has fewer than the caller's limit, or if the same
-- token is one of them already.
--
-- KEYS[1], KEYS[2]  those of holders.lua
-- KEYS[3]           the fencing counter's key, if there is one
-- ARGV              the three of token.lua
-- ARGV[4]           the limit; 0 for a shared lock
--
-- Reply: the fencing token, or 1 without a counter, if the token is a holder now. Otherwise nothing was
-- changed: 0 if the lock is taken, -1 if it is taken by the other kind of several holders (shared or
-- limited).

local limit = tonumber(ARGV[4])

local holder = redis.call('get', KEYS[1])
local holders, shared = count()
if holder and holders == 0 then
	return 0 -- it is exclusive, or somebody else's '', or all are about to expire
end
if holders > 0 and shared ~= (limit == 0) then
	return -1
end
local before, until_ = own(value, ARGV[4], generated and -1 or length)
if not before and limit > 0 and holders >= limit then
	return 0
end
local number = KEYS[3] and redis.call('incr', KEYS[3]) or 1
local ends = now() + ttl * 1000
if generated and before then
	-- This command may be late, and the holder may have refreshed the lock for longer since.
	ends = math.max(ends, until_)
end
hold(value, ARGV[4], before, ends, not holder)
settle()
return number
