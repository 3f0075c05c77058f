-- Takes a call out of the queue. If it has been handed the lock, passes that on.
--
-- KEYS     the three of queue.lua
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the identifier of the call
-- ARGV[3]  1 if no other call has this value; else 0: others may be in the queue by
--          it, or hold the lock, and keep what they have
--
-- Reply: 1 if the lock was passed on, else 0.

local value, id, unique = ARGV[1], ARGV[2], ARGV[3] == '1'

-- The identifier that an entry of the hash begins with, after so much else.
local function names(entry, before)
	return entry and string.match(entry, before .. '([^:]*):') == id
end

if unique or names(redis.call('hget', KEYS[3], value), '^%d+ %d+ ') then
	redis.call('zrem', KEYS[2], value)
	redis.call('hdel', KEYS[3], value)
end
if redis.call('get', KEYS[1]) ~= value then
	return 0
end
-- Any call with the value that has asked since the handover may hold the lock by it: an ask
-- that finds the lock its own removes the entry.
if not unique and not names(redis.call('hget', KEYS[3], ''), '^') then
	return 0
end
pass_on()
return 1
