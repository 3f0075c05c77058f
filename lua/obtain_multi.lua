-- Takes several locks or none, and hands out a fencing token on request.
--
-- KEYS     the locks' keys; then the fencing counter's key, if ARGV[4] is 1
-- ARGV     the three of token.lua
-- ARGV[4]  1 with a fencing counter, else 0
--
-- Reply: 0 if a key is held by somebody else; else the fencing token, or 1
-- without a counter.

local locks = #KEYS - ARGV[4]

-- Whether this takes anything that the token does not hold already.
local new = 0
for i = 1, locks do
	local holder = redis.call('get', KEYS[i])
	if not holder then
		new = 1
	elseif not mine(holder) then
		return 0
	end
end

-- The counter comes before the keys: if it is unusable, nothing has been taken
-- yet; if the keys fail, only a number is skipped.
local number = 1
if locks < #KEYS then
	number = fence(KEYS[#KEYS], new)
end
for i = 1, locks do
	redis.call('set', KEYS[i], value, 'px', renewed(KEYS[i]))
end
return number
