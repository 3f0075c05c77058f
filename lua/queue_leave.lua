-- Takes a call out of the queue. If the lock has been handed to it, passes the lock on.
--
-- KEYS     the four of queue.lua
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the identifier of the call
-- ARGV[3]  1 if no other call has this value; else 0: other calls with it may be in the
--          queue, or hold the lock, and keep what they have
-- ARGV[4]  the limit, if the lock may have several holders; 0 for a shared lock
--
-- Reply: 1 if the lock was passed on, else 0.

local value, id, unique = ARGV[1], ARGV[2], ARGV[3] == '1'

-- Whether an entry of the hash has this call's identifier, after what matches before.
local function names(entry, before)
	return entry and string.match(entry, before .. '([^:]*):') == id
end

if unique or names(redis.call('hget', KEYS[4], value), '^%d+ %d+ ') then
	redis.call('zrem', KEYS[3], value)
	redis.call('hdel', KEYS[4], value)
end
-- Any call with this value that has asked since the handover may hold the lock: an ask that
-- finds the lock held by its value removes the entry, or the mark.
local holder, passed = redis.call('get', KEYS[1]), false
if ARGV[4] then
	local place = own(value, ARGV[4], -1)
	passed = place and (unique or redis.call('zscore', KEYS[2], mark(id, value)))
	if passed then
		drop(place)
	end
elseif holder == value then
	passed = unique or names(redis.call('hget', KEYS[4], ''), '^')
end
-- Those behind it may have been waiting only because of it.
if passed or holder == '' then
	move_on(passed and not ARGV[4] or redis.call('exists', KEYS[1]) == 0)
end
return passed and 1 or 0
