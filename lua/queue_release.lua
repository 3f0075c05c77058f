-- Releases the lock, or hands it to the first waiters.
--
-- KEYS     the four of queue.lua
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the limit, if the lock may have several holders; 0 for a shared lock
--
-- Reply: 1 if the value held the lock, else 0 and nothing was changed.

if not ARGV[2] then
	if redis.call('get', KEYS[1]) ~= ARGV[1] then
		return 0
	end
	move_on(true)
	return 1
end
local holder = own(ARGV[1], ARGV[2], -1)
if not holder then
	return 0
end
drop(holder)
move_on(redis.call('exists', KEYS[1]) == 0)
return 1
