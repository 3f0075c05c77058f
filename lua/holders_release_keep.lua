-- Gives a holder's place back, but keeps it taken for a while.
--
-- KEYS[1], KEYS[2]  those of holders.lua
-- ARGV[1]           the value: token and metadata
-- ARGV[2]           the mark that holds the place while it stays, of this holder alone; no token
--                   is a prefix of it
-- ARGV[3]           for how long it stays, in milliseconds
-- ARGV[4]           the limit
--
-- Reply: 1 if the value was a holder and the mark holds its place now, or has held it since an earlier
-- run of this script; else 0, and nothing was changed.

local holder = own(ARGV[1], ARGV[4], -1)
if not holder then
	return own(ARGV[2], ARGV[4], -1) and 1 or 0
end
-- The first write needs no memory: after it, the server no longer refuses writes for lack of memory.
redis.call('zrem', KEYS[2], holder)
hold(ARGV[2], ARGV[4], nil, now() + ARGV[3] * 1000, false)
settle()
return 1
