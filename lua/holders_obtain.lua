-- Takes a lock that may have several holders: if fewer than the caller's limit hold it, or if the
-- same token does already.
--
-- KEYS[1], KEYS[2]  those of holders.lua
-- KEYS[3]           the fencing counter's key, if there is one
-- ARGV              the three of token.lua
-- ARGV[4]           the limit; 0 for a shared lock
--
-- Reply: the fencing token, or 1 without a counter, if the token is a holder now. 0 if the lock is
-- taken, -1 if by the other kind of these holders: shared ones or limited ones. Then nothing was
-- changed.

local limit = tonumber(ARGV[4])

local holder = redis.call('get', KEYS[1])
if holder and holder ~= '' then
	return 0
end
local holders, shared = count()
if holder and holders == 0 then
	return 0 -- somebody else's '', or all are about to expire
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
	-- This may be late, and the holder have refreshed the lock for longer since.
	ends = math.max(ends, until_)
end
hold(value, ARGV[4], before, ends, not holder)
settle()
return number
