-- Tells who holds a lock, and who is waiting for it.
--
-- KEYS[1]  the lock's key
-- KEYS     the other keys of queue.lua, if the lock can have them
--
-- Reply: two lists. The holders: value, TTL left in milliseconds, limit (1 for an exclusive lock, 0
-- for a shared one). The waiters in the queue, in order: value, since when in microseconds of the
-- server's clock.

local holders, waiters = {}, {}

local value = redis.call('get', KEYS[1])
if value and value ~= '' then
	holders[1] = {value, redis.call('pttl', KEYS[1]), 1}
end
if not KEYS[2] then
	return {holders, waiters}
end

local found = live()
for i = 1, #found, 2 do
	local limit = tonumber(string.match(found[i], '^%d+'))
	holders[#holders + 1] = {value_of(found[i]), math.ceil((found[i + 1] - now()) / 1000), limit}
end

local queue = redis.call('zrange', KEYS[3], 0, -1, 'withscores')
for i = 1, #queue, 2 do
	local alive = string.match(redis.call('hget', KEYS[4], queue[i]) or '', '^(%d+) ')
	if alive and tonumber(alive) >= now() then
		waiters[#waiters + 1] = {queue[i], tonumber(queue[i + 1])}
	end
end
return {holders, waiters}
