-- Gives a holder a new TTL.
--
-- KEYS[1], KEYS[2]  those of holders.lua
-- ARGV[1]           the value: token and metadata
-- ARGV[2]           the TTL in milliseconds
-- ARGV[3]           1 if a longer TTL is kept, else 0
-- ARGV[4]           the limit; 0 for a shared lock
--
-- Reply: 1 if the value is a holder and has the TTL now, or the longer one; else 0, and nothing was
-- changed.

local before, until_ = own(ARGV[1], ARGV[4], -1)
if not before then
	return 0
end
local ends = now() + ARGV[2] * 1000
if ARGV[3] == '1' then
	ends = math.max(ends, until_)
end
-- The first write needs no memory: after it, the server no longer refuses writes for lack of memory.
forget()
hold(ARGV[1], ARGV[4], before, ends, false)
settle()
return 1
