-- Takes the lock if it is this waiter's turn, else queues it, or keeps it queued.
--
-- KEYS     the four of queue.lua; then the fencing counter's key, if there is one
-- ARGV     the three of token.lua
-- ARGV[4]  for how long the waiter is alive if it does not ask again, in milliseconds
-- ARGV[5]  for how long it has been waiting, in microseconds; 0 if it asks for the first time
-- ARGV[6]  the ticket: what a message to the waiter begins with, without a space
-- ARGV[7]  the waiter's channel, after a letter: s if the channel is sharded, else p; '' if
--          there is none
-- ARGV[8]  the limit, if the lock may have several holders; 0 for a shared lock
--
-- Reply: the fencing token, or 1 without a counter, if the token holds the lock now. Otherwise a number
-- that is not positive: minus the milliseconds until there is room unless a holder releases before, at
-- most an hour; less 1e15 if nobody listens to the channel on this server. Or -2e15, and nothing was
-- changed, if the lock is held by the other kind of several holders (shared or limited).

local waited, ticket, channel, limit = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8] or '1'
local several = limit ~= '1'

-- A waiter that asks for the first time waits for the reply, and so does one that
-- has no channel. Any other waiter may have been served, or have left, while this
-- command was under way: a message to nobody is noticed, a reply to nobody is not.
local told_by_reply = waited == 0 or channel == ''

-- An unusable counter fails here, before anything is taken.
if KEYS[5] then
	redis.call('incrby', KEYS[5], 0)
end

local function number(new)
	return KEYS[5] and fence(KEYS[5], new) or 1
end

if not several and told_by_reply and redis.call('exists', KEYS[1], KEYS[3], KEYS[4]) == 0 then
	redis.call('set', KEYS[1], value, 'px', ttl)
	return number(1)
end

local key = redis.call('get', KEYS[1])
-- The lock was handed over, and the message is under way or lost; or the token held it before. If this
-- command is late, the holder may have refreshed the lock for longer since.
local late = waited > 0 or generated
if key and key ~= '' and not several and mine(key) then
	redis.call('zrem', KEYS[3], value)
	redis.call('hdel', KEYS[4], value)
	local new = 0
	local told = string.match(redis.call('hget', KEYS[4], '') or '', '^%S+ (.*)$')
	if told and mine(told) then
		redis.call('hdel', KEYS[4], '')
		new = 1
	end
	local left = late and math.max(ttl, redis.call('pttl', KEYS[1])) or ttl
	redis.call('set', KEYS[1], value, 'px', digits(left))
	return number(new)
end
local holders, shared = 0, false
if key == '' then
	holders, shared = count()
end
local free = not key
if several and holders > 0 then
	if shared ~= (limit == '0') then
		return -2e15
	end
	local holder, ends = own(value, limit, tonumber(ARGV[3]))
	if holder then
		redis.call('zrem', KEYS[3], value)
		redis.call('hdel', KEYS[4], value)
		unmark(value)
		hold(value, limit, holder, math.max(now() + ttl * 1000, late and ends or 0), false)
		settle()
		return number(1)
	end
end
if several and told_by_reply and (free or room(limit, holders, shared)) and redis.call('exists', KEYS[3]) == 0 then
	hold(value, limit, nil, now() + ttl * 1000, free)
	if not generated and not free then
		unmark(value) -- left by a holder with this token that has expired
	end
	settle()
	return number(1)
end

-- Without a channel the waiter is not passed over: it asks again soon.
local unheard = channel ~= '' and listeners(channel) == 0
if unheard then
	channel = ''
end

if not redis.call('zscore', KEYS[3], value) then
	local since = now() - waited
	if waited == 0 then
		-- Behind all others, even if the clock was set back.
		local last = redis.call('zrevrange', KEYS[3], 0, 0, 'withscores')[2]
		since = math.max(since, tonumber(last or 0) + 1)
	end
	redis.call('zadd', KEYS[3], digits(since), value)
end
local alive = digits(now() + ARGV[4] * 1000)
redis.call('hset', KEYS[4], value, table.concat({alive, ARGV[2], ticket, limit, ARGV[3], channel}, ' '))
-- If no waiter asks for that long, the keys expire.
local unused = digits(ARGV[4] + 10000)
redis.call('pexpire', KEYS[3], unused)
redis.call('pexpire', KEYS[4], unused)

if free or holders > 0 then
	local _, entered = let_in(free, told_by_reply and value)
	if entered then
		redis.call('hdel', KEYS[4], '')
		if several then
			unmark(value)
		end
		return number(1)
	end
	holders = count()
end
local left
if holders == 0 then
	left = redis.call('pttl', KEYS[1])
else
	-- There is room for one when so many holders have expired.
	local before = math.max(0, holders - math.max(tonumber(limit), 1))
	local ends = redis.call('zrangebyscore', KEYS[2], '(' .. digits(now()), '+inf', 'withscores', 'limit', before, 1)[2]
	left = math.ceil((ends - now()) / 1000)
end
local hour = 3600000
if left < 0 or left > hour then
	left = hour -- a waiter asks much sooner anyway
end
if unheard then
	left = left + 1e15
end
return -left
