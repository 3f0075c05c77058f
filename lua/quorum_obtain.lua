-- Takes locks on one node of a quorum: if their keys are free, or if the same token holds
-- them already.
--
-- KEYS     the locks' keys
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  the length of the token in bytes
--
-- Reply: 0 if a key is somebody else's, and nothing was changed; 1 if the token has held
-- one before; else the moment at which the keys will expire, in milliseconds of the node's
-- time. By that quorum_undo.lua knows them again.

local value, ttl = ARGV[1], tonumber(ARGV[2])
local token = string.sub(value, 1, tonumber(ARGV[3]))
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = now + ttl
local held = false

for _, key in ipairs(KEYS) do
	local holder = redis.call('get', key)
	if holder then
		if string.sub(holder, 1, #token) ~= token then
			return 0
		end
		held = true
		-- Whoever took the key before may be about to undo that: it has to see that
		-- somebody else has come to count on the key.
		local before = now + redis.call('pttl', key)
		if math.abs(expiry - before) < 10 then
			expiry = before + 10
		end
	end
end
for _, key in ipairs(KEYS) do
	redis.call('set', key, value, 'px', string.format('%.0f', expiry - now))
end
return held and 1 or expiry
