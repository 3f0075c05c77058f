-- Releases locks, but keeps their keys for a while, so that nobody obtains them before.
--
-- KEYS     the locks' keys
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the mark, the value of the keys while they stay. It is unique to this lock, and no
--          token is a prefix of it
-- ARGV[3]  for how long they stay, in milliseconds
--
-- Reply: 1 if all keys had the value and have the mark now, or have it from an earlier run of
-- this script. Else 0: of several keys, those with the value are gone, since nobody holds all of
-- them any more, and a lock that is lost does not stay.

local held = 0
local mine = {}
for i = 1, #KEYS do
	local value = redis.call('get', KEYS[i])
	if value == ARGV[1] then
		mine[#mine + 1] = KEYS[i]
	end
	if value == ARGV[1] or value == ARGV[2] then
		held = held + 1
	end
end
if held < #KEYS then
	for i = 1, #mine do
		redis.call('del', mine[i])
	end
	return 0
end
for i = 1, #mine do
	-- The first write needs no memory: after it, the server no longer refuses writes for
	-- lack of memory.
	redis.call('pexpire', mine[i], ARGV[3])
	redis.call('set', mine[i], ARGV[2], 'px', ARGV[3])
end
return 1
