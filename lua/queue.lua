-- What the scripts of the queue have in common: each of them has this in front, and holders.lua
-- before it.
--
-- KEYS[1], KEYS[2]  the lock's key, and that of its holders if there may be several
-- KEYS[3]  the queue, a sorted set: value of a waiter -> since when it waits, in
--          microseconds of the server's clock
-- KEYS[4]  the waiters, a hash: value of a waiter -> "alive until, in microseconds of the server's
--          clock; TTL in milliseconds; ticket; limit; length of the token, negative if it was
--          generated; channel". The limit is 1 for an exclusive lock, 0 for a shared one. The
--          field '' is "ticket value" of the waiter that the lock was handed to last, for as long
--          as it may not know yet.
--
-- A ticket names a call: its identifier, up to a colon, is unlike that of any other. Calls
-- with the same custom token have the same value, and share one place in the queue.

-- How many listen to a channel, by this server. A channel's first letter tells sharded
-- ones from plain ones. An error, for want of a permission, is a table.
local function listeners(channel)
	local numsub = string.sub(channel, 1, 1) == 's' and 'shardnumsub' or 'numsub'
	local counts = redis.pcall('pubsub', numsub, string.sub(channel, 2))
	return counts[2] or counts
end

-- Tells a waiter that it holds the lock now. An error, for want of a permission, must not
-- keep a holder from releasing: the waiter will ask again.
local function tell(value, ticket, channel)
	local publish = string.sub(channel, 1, 1) == 's' and 'spublish' or 'publish'
	redis.pcall(publish, string.sub(channel, 2), ticket .. ' ' .. value)
end

-- What marks a holder by a custom token as let in by the queue, for the call of that identifier,
-- which may not know yet. It has the holder's score, but negative.
local function mark(id, value)
	return id .. ' ' .. value
end

-- All marks, by their values: looked for once.
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

-- Takes a holder's place away, and the marks of how it came by it: a late leave of the call that was
-- let in must not take a place that the token obtains later.
local function drop(holder)
	redis.call('zrem', KEYS[2], holder)
	by_token = {}
	unmark(value_of(holder))
	settle()
end

-- Whether one more with that limit can join several holders. place is that of its token, if it has one:
-- it can be replaced.
local function room(limit, holders, shared, place)
	return holders > 0 and shared == (limit == '0') and (shared or place or holders < tonumber(limit))
end

-- Makes a waiter one of several holders, in place of the one that has its token already.
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

-- Lets in waiters, the first ones first, for as long as there is room for the next. free is whether
-- nobody holds the lock, whatever its key has. The waiter that is named as asking gets no message.
-- Returns whether the lock is free still, so that the caller has to delete it, and whether the one
-- who asks holds it.
--
-- That nobody listens means that the waiter's process is gone, or is reconnecting: it is passed over
-- if there is room for it. If there is none, it holds up those behind it for as long as it is alive:
-- they must not overtake it because it reconnects. Nothing must be sent to it: a subscriber at a
-- replica would receive it uncounted, and believe it while the next has the lock.
--
-- The first write is one that needs no memory: the server does not refuse those after it for
-- want of memory any more. Messages go out after the keys are set.
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

-- Lets in whom there is room for. If nobody holds the lock then, nothing is left of it.
local function move_on(free)
	if let_in(free) then
		redis.call('del', KEYS[1], KEYS[2], KEYS[4])
	end
end
