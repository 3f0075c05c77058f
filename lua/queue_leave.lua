-- Takes a waiter out of the queue. If it has been handed the lock, passes that on.
--
-- KEYS     the three of queue.lua
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  1 if nobody else can have obtained the lock by this value; else 0: the
--          lock is kept unless it is sure that nobody believes to hold it
--
-- Reply: 1 if the lock was passed on, else 0.

redis.call('zrem', KEYS[2], ARGV[1])
redis.call('hdel', KEYS[3], ARGV[1])
if redis.call('get', KEYS[1]) ~= ARGV[1] then
	return 0
end
if ARGV[2] == '0' and redis.call('hget', KEYS[3], '') ~= ARGV[1] then
	return 0
end
pass_on()
return 1
