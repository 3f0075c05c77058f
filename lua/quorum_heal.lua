-- Takes locks that a majority holds on one more node, which has lost them.
--
-- KEYS     the locks' keys; then, for a custom token, the keys of quorum_obtain.lua's marks
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  until when this may be done, in milliseconds of the node's clock: a command
--          that takes longer to arrive might run after the locks were released
-- ARGV[4]  how many of the keys are locks'
--
-- Reply: 1 if the keys have the value now, with the TTL or a longer one, else 0 and
-- nothing was changed.

local locks = tonumber(ARGV[4])
local now = redis.call('time')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[3]) then
	return 0
end
for i = 1, locks do
	local value = redis.call('get', KEYS[i])
	if value and value ~= ARGV[1] then
		return 0
	end
end
for i = 1, locks do
	-- With a custom token, another call may have obtained the lock for longer since.
	if redis.call('pttl', KEYS[i]) < tonumber(ARGV[2]) then
		redis.call('set', KEYS[i], ARGV[1], 'px', ARGV[2])
	end
end
for i = locks + 1, #KEYS do
	redis.call('del', KEYS[i])
end
return 1
