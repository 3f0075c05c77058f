-- Gives back locks that a failed try took on one node of a quorum, unless another call has
-- come to count on them: that has removed the mark.
--
-- KEYS     the locks' keys; then the key of the mark
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the mark
--
-- Reply: how many keys were deleted.

if redis.call('get', KEYS[#KEYS]) ~= ARGV[2] then
	return 0
end
local deleted = 0
for i = 1, #KEYS - 1 do
	if redis.call('get', KEYS[i]) == ARGV[1] then
		deleted = deleted + redis.call('del', KEYS[i])
	end
end
redis.call('del', KEYS[#KEYS])
return deleted
