-- What the scripts of the queue share: holders.lua and then this are prepended to each of them.
--
-- KEYS[1], KEYS[2]  the lock's key, and that of its holders if there may be several
-- KEYS[3]  the queue, a sorted set: value of a waiter -> since when it has been waiting,
--          in microseconds of the server's clock
-- KEYS[4]  the waiters, a hash: value of a waiter -> "alive until, in microseconds of the server's
--          clock; TTL in milliseconds; ticket; limit; length of the token, negative if it was
--          generated; channel". The limit is 1 for an exclusive lock, 0 for a shared one. The
--          field '' is "ticket value" of the waiter that the lock was handed to last, for as long
--          as that waiter may not know yet.
--
-- A ticket names a call: its identifier, up to a colon, is unique. Calls
-- with the same custom token have the same value, and share one place in the queue.

-- How many subscribers to a channel this server has. A channel's first letter tells sharded
-- channels from plain ones. An error, for lack of permission, is a table, not a number.
local function listeners(channel)
	local numsub = string.sub(channel, 1, 1) == 's' and 'shardnumsub' or 'numsub'
	local counts = redis.pcall('pubsub', numsub, string.sub(channel, 2))
	return counts[2] or counts
end

-- Tells a waiter that it holds the lock now. An error, for lack of permission, must not keep a
-- holder from releasing: the waiter will ask again.
local function tell(value, ticket, channel)
	local publish = string.sub(channel, 1, 1) == 's' and 'spublish' or 'publish'
	redis.pcall(publish, string.sub(channel, 2), ticket .. ' ' .. value)
end

-- The mark of a holder with a custom token that the queue has let in for the call with that
-- identifier, which may not know yet. Its score is the holder's, negated.
local function mark(id, value)
	return id .. ' ' .. value
end

-- All marks, by the values that they name: looked up once.
local marks

-- Removes the marks of a value: its calls may know by now, or the place is gone.
local function unmark(value)
	if not marks then
		marks = {}
		for _, found in ipairs(redis.call('zrangebyscore', KEYS[2], '-inf', '(0')) do
			local of = string.match(found, '^%S+ (.*)$')
			marks[of] = marks[of] or {}
			table.insert(marks[of], found)
		end
	end
	for _, found in ipairs(marks[value] or {}) do
		redis.call('zrem', KEYS[2], found)
	end
	marks[value] = nil
end

-- Takes away a holder's place and its marks: if the call that was let in leaves late, that must not
-- take a place which the token has obtained since.
local function drop(holder)
	redis.call('zrem', KEYS[2], holder)
	by_token = {}
	unmark(value_of(holder))
	settle()
end

-- Whether a caller with that limit can join several holders. place is the one that its token has already,
-- if any: it can be replaced.
local function room(limit, holders, shared, place)
	return holders > 0 and shared == (limit == '0') and (shared or place or holders < tonumber(limit))
end

-- Makes a waiter one of several holders, in place of before, the holder with its token, if any.
local function join(value, ttl, ticket, limit, length, before, free)
	local ends = now() + ttl * 1000
	hold(value, limit, before, ends, free)
	if length > 0 then
		unmark(value)
		local new = mark(string.match(ticket, '^[^:]*'), value)
		redis.call('zadd', KEYS[2], digits(-ends), new)
		marks[value] = {new}
	end
end

-- Lets in waiters in order, for as long as there is room for the next. free is whether nobody holds
-- the lock, whatever its key contains. asking is the value of the waiter that runs this script, if any:
-- it gets no message. Returns whether the lock is still free, so that the caller has to delete it, and
-- whether the asking waiter holds it now.
--
-- If nobody listens to a waiter's channel, its process is gone or is reconnecting. If there is room for
-- it, it is passed over. If there is none, it holds up those behind it for as long as it is alive: they
-- must not overtake it because it reconnects. Nothing may be sent to it: a subscriber on a replica is
-- not counted here, but would receive the message and believe it while the next waiter has the lock.
--
-- The first write needs no memory: after it, the server no longer refuses writes for lack of memory.
-- Messages go out after the keys are set.
local function let_in(free, asking)
	local holders, shared, entered, messages = 0, false, false, {}
	if not free then
		holders, shared = count()
	end
	local joined, exclusive = false, false
	while not exclusive do
		local value = free and redis.call('zpopmin', KEYS[3])[1] or not free and redis.call('zrange', KEYS[3], 0, 0)[1]
		if not value then
			break
		end
		local waiter = redis.call('hget', KEYS[4], value)
		local alive, ttl, ticket, limit, length, channel =
			string.match(waiter or '', '^(%d+) (%d+) (%S+) (%d+) (-?%d+) (.*)$')
		local present = alive and tonumber(alive) >= now()
		local before = present and limit ~= '1' and own(value, limit, tonumber(length)) or nil
		if present and not free and not room(limit, holders, shared, before) then
			break
		end
		if not present or value ~= asking and channel ~= '' and listeners(channel) == 0 then
			redis.call('zrem', KEYS[3], value)
			redis.call('hdel', KEYS[4], value)
		else
			exclusive = limit == '1'
			if exclusive then
				redis.call('set', KEYS[1], value, 'px', ttl)
				-- Before the entry goes: a hash that becomes empty loses its TTL.
				redis.call('hset', KEYS[4], '', ticket .. ' ' .. value)
			else
				redis.call('zrem', KEYS[3], value)
				join(value, ttl, ticket, limit, tonumber(length), before, free)
				holders, shared, joined = holders + (before and 0 or 1), limit == '0', true
			end
			redis.call('hdel', KEYS[4], value)
			free = false
			if value == asking then
				entered = true
			elseif channel ~= '' then
				table.insert(messages, {value, ticket, channel})
			end
		end
	end
	if joined then
		settle()
	end
	for _, message in ipairs(messages) do
		tell(unpack(message))
	end
	return free, entered
end

-- Lets in the waiters for whom there is room. If nobody holds the lock then, its keys are deleted.
local function move_on(free)
	if let_in(free) then
		redis.call('del', KEYS[1], KEYS[2], KEYS[4])
	end
end
