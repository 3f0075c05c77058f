-- Takes several locks or none, and hands out a fencing token on request.
--
-- KEYS     the locks' keys; then the fencing counter's key, if ARGV[4] is 1
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  the length of the token in bytes; '' if it was generated for this call
-- ARGV[4]  1 with a fencing counter, else 0
--
-- Reply: 0 if a key is held by somebody else; else the fencing token, or 1
-- without a counter.

local locks = #KEYS - ARGV[4]
local length = tonumber(ARGV[3]) or 22
local token = string.sub(ARGV[1], 1, length)

-- Whether this takes anything that the token does not hold already.
local new = 0
for i = 1, locks do
	local value = redis.call('get', KEYS[i])
	if not value then
		new = 1
	elseif string.sub(value, 1, length) ~= token then
		return 0
	end
end

-- The counter comes before the keys: should it be unusable, nothing has been
-- taken; should the keys fail, only a number is skipped.
local fence = 1
if locks < #KEYS then
	fence = redis.call('incrby', KEYS[#KEYS], new)
	if fence == 0 then -- held so far without a counter
		fence = redis.call('incr', KEYS[#KEYS])
	end
end

for i = 1, locks do
	-- Of a generated token the keys may be from an earlier run of this very call, and have
	-- been refreshed for longer since.
	if ARGV[3] ~= '' or redis.call('pttl', KEYS[i]) < tonumber(ARGV[2]) then
		redis.call('set', KEYS[i], ARGV[1], 'px', ARGV[2])
	end
end
return fence
