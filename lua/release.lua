-- Releases locks.
--
-- KEYS     the locks' keys
-- ARGV[1]  the value: token and metadata
--
-- Reply: 1 if all keys had the value and are deleted now. Else 0: of several keys,
-- those with the value are deleted even so, since nobody holds all of them any more.

local mine = {}
for i = 1, #KEYS do
	if redis.call('get', KEYS[i]) == ARGV[1] then
		mine[#mine + 1] = KEYS[i]
	end
end
for i = 1, #mine do
	redis.call('del', mine[i])
end
return #mine == #KEYS and 1 or 0
