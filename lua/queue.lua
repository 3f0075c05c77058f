-- What the scripts of the queue have in common: each of them has this in front.
--
-- KEYS[1]  the lock's key
-- KEYS[2]  the queue, a sorted set: value of a waiter -> since when it waits, in
--          microseconds of the server's clock
-- KEYS[3]  the waiters, a hash: value of a waiter -> "alive until, in microseconds
--          of the server's clock; TTL in milliseconds; ticket; channel". The
--          field '' is "ticket value" of the waiter that the lock was handed to last,
--          for as long as it may not know yet.
--
-- A ticket names a call: its identifier, up to a colon, is unlike that of any other. Calls
-- with the same custom token have the same value, and share one place in the queue.

local function time()
	local now = redis.call('time')
	return now[1] * 1000000 + now[2]
end

-- Not in the notation that numbers of this size are converted to by default.
local function digits(number)
	return string.format('%.0f', number)
end

-- How many listen to a channel, by this server. A channel's first letter tells sharded
-- ones from plain ones. An error, for want of a permission, is a table.
local function listeners(channel)
	local numsub = string.sub(channel, 1, 1) == 's' and 'shardnumsub' or 'numsub'
	local counts = redis.pcall('pubsub', numsub, string.sub(channel, 2))
	return counts[2] or counts
end

-- Tells a waiter that the lock is its own now, and reports whether that can be. That
-- nobody listens means that the waiter's process is gone, or is reconnecting. Then
-- nothing must be sent: a subscriber at a replica would receive it uncounted, and
-- believe it while the next has the lock. An error, for want of a permission, must not
-- keep a holder from releasing: the waiter will ask again.
local function tell(value, ticket, channel)
	if listeners(channel) == 0 then
		return false
	end
	local publish = string.sub(channel, 1, 1) == 's' and 'spublish' or 'publish'
	redis.pcall(publish, string.sub(channel, 2), ticket .. ' ' .. value)
	return true
end

-- Gives the lock to the first waiter that is alive, and returns its value; nil if
-- there is none: then the caller has to delete or to set the lock's key. The waiter
-- that is named as asking gets no message.
--
-- The message goes out after the key is set. The first write is one that needs no
-- memory: the server does not refuse those after it for want of memory any more.
local function hand_over(asking)
	while true do
		local value = redis.call('zpopmin', KEYS[2])[1]
		if not value then
			return nil
		end
		local waiter = redis.call('hget', KEYS[3], value)
		local alive, ttl, ticket, channel = string.match(waiter or '', '^(%d+) (%d+) (%S+) (.*)$')
		local served = false
		if alive and tonumber(alive) >= time() then
			redis.call('set', KEYS[1], value, 'px', ttl)
			-- Before its entry goes: a hash that becomes empty loses its TTL.
			redis.call('hset', KEYS[3], '', ticket .. ' ' .. value)
			served = value == asking or channel == '' or tell(value, ticket, channel)
		end
		redis.call('hdel', KEYS[3], value)
		if served then
			return value
		end
	end
end

-- Hands the lock to the next, or leaves it free.
local function pass_on()
	if not hand_over() then
		redis.call('del', KEYS[1], KEYS[3])
	end
end
