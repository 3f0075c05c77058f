-- Gives held locks a new TTL.
--
-- KEYS     the locks' keys; then, for a custom token on a quorum, the keys of quorum_obtain.lua's
--          marks
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  1 if keys that have a longer TTL keep it, else 0
-- ARGV[4]  on a quorum, how many of the keys are locks'; else missing
--
-- Reply: 1 if all keys had the value and have the TTL now, or the longer one. Otherwise nothing
-- was changed: 0 if a key has another value or is missing; but on a quorum, if keys are missing
-- and none has another value, minus the node's time in milliseconds.

local locks = tonumber(ARGV[4] or #KEYS)
local missing = false
for i = 1, locks do
	local value = redis.call('get', KEYS[i])
	if not value then
		missing = true
	elseif value ~= ARGV[1] then
		return 0
	end
end
if missing and not ARGV[4] then
	return 0
elseif missing then
	local now = redis.call('time')
	return -(now[1] * 1000 + math.floor(now[2] / 1000))
end
for i = 1, locks do
	if ARGV[3] == '0' or redis.call('pttl', KEYS[i]) < tonumber(ARGV[2]) then
		redis.call('pexpire', KEYS[i], ARGV[2])
	end
end
for i = locks + 1, #KEYS do
	redis.call('del', KEYS[i])
end
return 1
