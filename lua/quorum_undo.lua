-- Gives back what a failed try took on one node of a quorum, except for keys that another
-- call has come to count on: such a call has removed or replaced their marks.
--
-- KEYS     the locks' keys; then the key of a mark for each of them
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the mark
--
-- Reply: how many keys were deleted.

local locks = #KEYS / 2
local deleted = 0
for i = 1, locks do
	local mark = KEYS[locks + i]
	if redis.call('get', mark) == ARGV[2] then
		if redis.call('get', KEYS[i]) == ARGV[1] then
			deleted = deleted + redis.call('del', KEYS[i])
		end
		redis.call('del', mark)
	end
end
return deleted
