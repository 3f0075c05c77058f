-- Gives a holder's place back.
--
-- KEYS[1], KEYS[2]  those of holders.lua
-- ARGV[1]           the value: token and metadata
-- ARGV[2]           the limit; 0 for a shared lock
--
-- Reply: 1 if the value was a holder, else 0 and nothing was changed.

local holder = own(ARGV[1], ARGV[2], -1)
if not holder then
	return 0
end
redis.call('zrem', KEYS[2], holder)
settle()
return 1
