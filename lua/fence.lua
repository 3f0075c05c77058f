-- Hands out fencing tokens. It follows token.lua.

-- The next number of a counter, or the last one again if nothing was newly taken (new is 0).
local function fence(counter, new)
	local number = redis.call('incrby', counter, new)
	if number == 0 then -- the lock has been held without a counter so far
		number = redis.call('incr', counter)
	end
	return number
end
