-- Releases exclusive locks by their holder's token.
--
-- KEYS     the locks' keys
-- ARGV[1]  the token
--
-- Reply: 1 if the token held all keys and they are deleted now. Else 0: of several keys, those that
-- it held are deleted even so, since nobody holds all of them any more.

local mine = {}
for i = 1, #KEYS do
	if redis.call('getrange', KEYS[i], 0, #ARGV[1] - 1) == ARGV[1] then
		mine[#mine + 1] = KEYS[i]
	end
end
for i = 1, #mine do
	redis.call('del', mine[i])
end
return #mine == #KEYS and 1 or 0
