-- Gives the lock back, or rather to the first waiter.
--
-- KEYS     the three of queue.lua
-- ARGV[1]  the value: token and metadata
--
-- Reply: 1 if the key had the value, else 0 and nothing was changed.

if redis.call('get', KEYS[1]) ~= ARGV[1] then
	return 0
end
pass_on()
return 1
