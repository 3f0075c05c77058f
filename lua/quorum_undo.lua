-- Gives back locks that a failed try took on one node of a quorum, unless the same token
-- has obtained them since. That moved the moment at which they expire.
--
-- KEYS     the locks' keys
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  when they expire if nobody has, by the reply of quorum_obtain.lua
--
-- Reply: how many keys were deleted.

local time = redis.call('time')
local now = time[1] * 1000 + time[2] / 1000
local deleted = 0
for _, key in ipairs(KEYS) do
	-- Two clocks of the server are read here, one after the other.
	if redis.call('get', key) == ARGV[1] and math.abs(now + redis.call('pttl', key) - tonumber(ARGV[2])) < 5 then
		deleted = deleted + redis.call('del', key)
	end
end
return deleted
