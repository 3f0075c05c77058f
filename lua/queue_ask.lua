-- Takes the lock if it is this waiter's turn, else queues it, or keeps it queued.
--
-- KEYS     the three of queue.lua; then the fencing counter's key, if there is one
-- ARGV     the three of token.lua
-- ARGV[4]  for how long the waiter is alive if it does not ask again, in milliseconds
-- ARGV[5]  for how long it has been waiting, in microseconds; 0 if it asks first
-- ARGV[6]  the ticket: what a message to the waiter begins with, without a space
-- ARGV[7]  the channel to tell the waiter by, after a letter: p, or s if it is a
--          sharded one; '' if there is none
--
-- Reply: the fencing token, or 1 without a counter, if the lock is held by the
-- token now. Else, negative or 0, how many milliseconds the holder's TTL has left,
-- at most an hour, less 1e15 if nobody listens to the channel at this server.

local waited, ticket, channel = tonumber(ARGV[5]), ARGV[6], ARGV[7]

-- A waiter that asks for the first time waits for the reply, and so does one that
-- has no channel. Any other may have been served, or have gone, while this command
-- was under way: a message to nobody is noticed, a reply to nobody is not.
local told_by_reply = waited == 0 or channel == ''

-- An unusable counter is found out before anything is taken.
if KEYS[4] then
	redis.call('incrby', KEYS[4], 0)
end

local function number(new)
	return KEYS[4] and fence(KEYS[4], new) or 1
end

if told_by_reply and redis.call('exists', KEYS[1], KEYS[2], KEYS[3]) == 0 then
	redis.call('set', KEYS[1], value, 'px', ttl)
	return number(1)
end

local holder = redis.call('get', KEYS[1])
if holder and mine(holder) then
	-- Handed over, and the message is under way or lost; or held before.
	redis.call('zrem', KEYS[2], value)
	redis.call('hdel', KEYS[3], value)
	local new = 0
	local told = string.match(redis.call('hget', KEYS[3], '') or '', '^%S+ (.*)$')
	if told and mine(told) then
		redis.call('hdel', KEYS[3], '')
		new = 1
	end
	local left = ttl
	if waited > 0 or generated then
		-- This may be late, and the holder have refreshed the lock for longer since.
		left = math.max(left, redis.call('pttl', KEYS[1]))
	end
	redis.call('set', KEYS[1], value, 'px', digits(left))
	return number(new)
end

-- Such a waiter is not passed over: it asks soon.
local unheard = channel ~= '' and listeners(channel) == 0
if unheard then
	channel = ''
end

local now = time()
if not redis.call('zscore', KEYS[2], value) then
	local since = now - waited
	if waited == 0 then
		-- Behind all others also if the clock was set back.
		local last = redis.call('zrevrange', KEYS[2], 0, 0, 'withscores')[2]
		since = math.max(since, tonumber(last or 0) + 1)
	end
	redis.call('zadd', KEYS[2], digits(since), value)
end
redis.call('hset', KEYS[3], value, digits(now + ARGV[4] * 1000) .. ' ' .. ARGV[2] .. ' ' .. ticket .. ' ' .. channel)
-- Without a waiter for that long they go away by themselves.
local unused = digits(ARGV[4] + 10000)
redis.call('pexpire', KEYS[2], unused)
redis.call('pexpire', KEYS[3], unused)

if not holder then
	local served = hand_over(told_by_reply and value)
	if not served then
		-- Nobody listens. Nor does this waiter, but it asks.
		redis.call('set', KEYS[1], value, 'px', ttl)
	end
	if not served or told_by_reply and served == value then
		redis.call('hdel', KEYS[3], '')
		return number(1)
	end
end
local left = redis.call('pttl', KEYS[1])
local hour = 3600000
if left < 0 or left > hour then
	left = hour -- a waiter asks much sooner anyway
end
if unheard then
	left = left + 1e15
end
return -left
