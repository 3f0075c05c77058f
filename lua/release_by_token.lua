-- Releases a lock of any kind by its holder's token, or hands it to the first waiters.
--
-- KEYS     the four of queue.lua
-- ARGV[1]  the token
--
-- Reply: 1 if the token held the lock, else 0 and nothing was changed.

local token = ARGV[1]
local value = redis.call('get', KEYS[1])
if not value then
	return 0
end
if value ~= '' then
	if string.sub(value, 1, #token) ~= token then
		return 0
	end
	move_on(true)
	return 1
end
local holder = own(token, nil, #token)
if not holder then
	return 0
end
drop(holder)
move_on(redis.call('exists', KEYS[1]) == 0)
return 1
