-- Takes locks on one node of a quorum: if their keys are free, or if the same token holds
-- them already.
--
-- KEYS     the locks' keys; then, for a custom token, the key of a mark for each of them
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  the length of the token in bytes; '' if it was generated for this call
-- ARGV[4]  for a custom token, what to mark keys with that it has not held before, so
--          that quorum_undo.lua knows that nobody else has come to count on them
--
-- Reply: 0 if a key is somebody else's, and nothing was changed; 1 if the token has held
-- all of them before; 2 if any was free.

local value, ttl = ARGV[1], tonumber(ARGV[2])
local length = tonumber(ARGV[3])
local token = string.sub(value, 1, length or -1)
local locks = length and #KEYS / 2 or #KEYS
local held, free = {}, false

for i = 1, locks do
	local holder = redis.call('get', KEYS[i])
	if holder and string.sub(holder, 1, #token) ~= token then
		return 0
	end
	held[i] = holder
	free = free or not holder
end
for i = 1, locks do
	local left = ttl
	if not length then
		-- From an earlier run of this very call, and perhaps refreshed since.
		left = math.max(left, redis.call('pttl', KEYS[i]))
	end
	redis.call('set', KEYS[i], value, 'px', string.format('%.0f', left))
	if length and held[i] then
		redis.call('del', KEYS[locks + i])
	elseif length then
		redis.call('set', KEYS[locks + i], ARGV[4], 'px', 2000)
	end
end
return free and 2 or 1
