-- Tells how long a holder still holds the lock.
--
-- KEYS[1], KEYS[2]  those of holders.lua
-- ARGV[1]           the value: token and metadata
-- ARGV[2]           the limit; 0 for a shared lock
--
-- Reply: the TTL in milliseconds, rounded down, if the value is a holder; else 0.

local holder, ends = own(ARGV[1], ARGV[2], -1)
return holder and math.floor((ends - now()) / 1000) or 0
