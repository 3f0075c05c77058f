-- Tells who holds a lock.
--
-- KEYS[1]  the lock's key
--
-- Reply: the key's value; nil if it is free.

return redis.call('get', KEYS[1])
