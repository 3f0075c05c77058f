-- Gives a holder's place back, but has it stay taken for a while.
--
-- KEYS[1], KEYS[2]  those of holders.lua
-- ARGV[1]           the value: token and metadata
-- ARGV[2]           the mark that holds the place while it stays, of this holder alone; no token
--                   is a prefix of it
-- ARGV[3]           for how long it stays, in milliseconds
-- ARGV[4]           the limit
--
-- Reply: 1 if the value was a holder and the mark holds its place now, or does so from an earlier
-- run of this; else 0, and nothing was changed.

local holder = own(ARGV[1], ARGV[4], -1)
if not holder then
	return own(ARGV[2], ARGV[4], -1) and 1 or 0
end
-- The first write is one that needs no memory: the server does not refuse those after it for want
-- of memory any more.
redis.call('zrem', KEYS[2], holder)
hold(ARGV[2], ARGV[4], nil, now() + ARGV[3] * 1000, false)
settle()
return 1
