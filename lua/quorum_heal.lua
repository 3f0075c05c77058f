-- Takes locks that are held by a majority on one more node, which has lost them.
--
-- KEYS     the locks' keys; then, for a custom token, the key of quorum_obtain.lua's mark
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  until when this may be done, in milliseconds of the node's time: a command
--          that was on its way for longer might come after the locks were released
-- ARGV[4]  how many of the keys are locks'
--
-- Reply: 1 if the keys have the value now, else 0 and nothing was changed.

local now = redis.call('time')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[3]) then
	return 0
end
for i = 1, tonumber(ARGV[4]) do
	local value = redis.call('get', KEYS[i])
	if value and value ~= ARGV[1] then
		return 0
	end
end
for i = 1, tonumber(ARGV[4]) do
	redis.call('set', KEYS[i], ARGV[1], 'px', ARGV[2])
end
if KEYS[ARGV[4] + 1] then
	redis.call('del', KEYS[ARGV[4] + 1])
end
return 1
