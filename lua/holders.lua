-- What the scripts for locks with several holders share: this is prepended to each of them.
--
-- KEYS[1]  the lock's key. It is '' while the lock has such holders: no token is a prefix of that,
--          so exclusive callers are refused.
-- KEYS[2]  the holders, a sorted set: "limit value" -> until when, in microseconds of the
--          server's clock. The limit is the holder's own; a shared holder has 0. A member with
--          a negative score is not a holder, but a mark of queue.lua.
--
-- Both keys expire with the last holder. Unless the first is '', the second means nothing.

local clock

-- The server's time in microseconds, the same throughout a script.
local function now()
	if not clock then
		local time = redis.call('time')
		clock = time[1] * 1000000 + time[2]
	end
	return clock
end

-- Numbers of this size would become exponents by default.
local function digits(number)
	return string.format('%.0f', number)
end

local function value_of(holder)
	return string.match(holder, '^%d+ (.*)$')
end

-- The holders that have not expired, each followed by its end.
local function live()
	if redis.call('get', KEYS[1]) ~= '' then
		return {}
	end
	return redis.call('zrangebyscore', KEYS[2], '(' .. digits(now()), '+inf', 'withscores')
end

-- Holders and their ends by token, for each length of tokens. They are looked up once per length,
-- since one script may let in thousands.
local by_token = {}

local function look_up(length)
	if not by_token[length] then
		local found, holders = {}, live()
		for i = 1, #holders, 2 do
			found[string.sub(value_of(holders[i]), 1, length)] = {holders[i], tonumber(holders[i + 1])}
		end
		by_token[length] = found
	end
	return by_token[length]
end

-- The holder whose token the value begins with, and its end; nil if there is none. A length below 0
-- stands for a token that no other value begins with: then the holder must have this limit too.
local function own(value, limit, length)
	if length >= 0 then
		return unpack(look_up(length)[string.sub(value, 1, length)] or {})
	end
	local holder = limit .. ' ' .. value
	local ends = tonumber(redis.call('get', KEYS[1]) == '' and redis.call('zscore', KEYS[2], holder) or 0)
	if ends > now() then
		return holder, ends
	end
end

-- How many holders the lock has, and whether they are shared ones.
local function count()
	if redis.call('get', KEYS[1]) ~= '' then
		return 0, false
	end
	local from = '(' .. digits(now())
	local first = redis.call('zrangebyscore', KEYS[2], from, '+inf', 'limit', 0, 1)[1]
	return redis.call('zcount', KEYS[2], from, '+inf'), first ~= nil and string.sub(first, 1, 2) == '0 '
end

-- Makes the value a holder until ends, in place of before, the holder with its token, if any. free is
-- whether nobody holds the lock, whatever its keys contain. The caller must call settle afterwards.
local function hold(value, limit, before, ends, free)
	local holder = limit .. ' ' .. value
	if free then
		-- If the server is out of memory this fails, before anything is changed.
		redis.call('set', KEYS[1], '', 'px', 1000)
		redis.call('del', KEYS[2])
		by_token = {}
	end
	redis.call('zadd', KEYS[2], digits(ends), holder)
	if before and before ~= holder then
		redis.call('zrem', KEYS[2], before)
	end
	for length, found in pairs(by_token) do
		if before then
			found[string.sub(value_of(before), 1, length)] = nil
		end
		found[string.sub(value, 1, length)] = {holder, ends}
	end
end

-- Removes the holders that have expired, and their marks.
local function forget()
	redis.call('zremrangebyscore', KEYS[2], digits(-now()), digits(now()))
end

-- Makes both keys expire with the last of the holders.
local function settle()
	forget()
	local last = tonumber(redis.call('zrevrange', KEYS[2], 0, 0, 'withscores')[2] or 0)
	if last <= now() then
		redis.call('del', KEYS[1], KEYS[2])
		return
	end
	local ends = digits(math.ceil(last / 1000))
	redis.call('set', KEYS[1], '', 'pxat', ends)
	redis.call('pexpireat', KEYS[2], ends)
end
