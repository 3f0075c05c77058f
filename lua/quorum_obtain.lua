-- Takes locks on one node of a quorum, if their keys are free, or if the same token holds
-- them already.
--
-- KEYS     the locks' keys; then, for a custom token, the key of a mark for each of them
-- ARGV     the three of token.lua
-- ARGV[4]  for a custom token, the mark for keys that it has not held before. It tells
--          quorum_undo.lua that no other call has come to count on them
--
-- Reply: 0 if a key is somebody else's, and nothing was changed; 1 if the token held all
-- keys before; 2 if any was free.

local locks = generated and #KEYS or #KEYS / 2
local held, free = {}, false

for i = 1, locks do
	local holder = redis.call('get', KEYS[i])
	if holder and not mine(holder) then
		return 0
	end
	held[i] = holder
	free = free or not holder
end
for i = 1, locks do
	redis.call('set', KEYS[i], value, 'px', renewed(KEYS[i]))
	if held[i] and not generated then
		redis.call('del', KEYS[locks + i])
	elseif not generated then
		redis.call('set', KEYS[locks + i], ARGV[4], 'px', 2000)
	end
end
return free and 2 or 1
