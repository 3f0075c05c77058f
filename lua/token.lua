-- Whose a lock is. This is prepended to each script that takes locks.
--
-- ARGV[1]  the value: token and metadata
-- ARGV[2]  the TTL in milliseconds
-- ARGV[3]  the length of the token in bytes; negative if it was generated for this call

local value, ttl = ARGV[1], tonumber(ARGV[2])
local generated = tonumber(ARGV[3]) < 0
local length = math.abs(ARGV[3])

-- Whether a lock's value has this token. If the token was generated, the value can only be from an
-- earlier run of this very call, whose reply was lost.
local function mine(holder)
	return string.sub(holder, 1, length) == string.sub(value, 1, length)
end

-- The TTL for a key that has this token already. If this run of a call is late, the holder may have
-- refreshed the lock for longer since.
local function renewed(key)
	if not generated then
		return ttl
	end
	return string.format('%.0f', math.max(ttl, redis.call('pttl', key)))
end
