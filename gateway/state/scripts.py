"""What the ledger has Redis do in one step each, as Lua.

They leave nothing behind for ever: what a script writes expires `TTL_MS` after the last write or `KEEP`. They trust
nothing that they find: a key of another type is begun anew, a version that is no count, too. (A version begins with
the time in microseconds, so that no number comes twice when Redis has lost its memory.)
"""

from __future__ import annotations

TTL_MS = 10_000
LOGGED = 1_000  # commits that a replica's log holds

_HEALED = """
local function healed(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then redis.call('DEL', key) end
end
local function number(key)
  healed(key, 'string')
  local found = tonumber(redis.call('GET', key) or '')
  if not found or found < 1 or found > 2^52 or found % 1 ~= 0 then return nil end
  return found
end
"""

_VERSION = (
    _HEALED
    + """
local function advanced(key, by)
  local version = number(key)
  if not version then
    local now = redis.call('TIME')
    version = tonumber(now[1]) * 1000000 + tonumber(now[2])
  end
  local text = string.format('%.0f', version + by)
  redis.call('SET', key, text, 'PX', ARGV[1])
  return version + by, text
end
"""
)

# KEYS: version, log, ledger, changes. ARGV: TTL, known version, change, request id, entry.
# Returns the new version, 1 when what follows is all that was committed since `known` (0: all that the ledger holds),
# and those entries.
COMMIT = (
    _VERSION
    + """
healed(KEYS[2], 'zset')
healed(KEYS[3], 'hash')
local known = tonumber(ARGV[2])
local version, text = advanced(KEYS[1], 1)
local reply = {text, '1'}
if version ~= known + 1 then
  local ids = redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%.0f', known), string.format('(%.0f', version))
  if known > 0 and #ids == version - known - 1 then
    for _, entry in ipairs(redis.call('HMGET', KEYS[3], unpack(ids))) do
      if entry then reply[#reply + 1] = entry end
    end
  else
    reply[2] = '0'
    for _, entry in ipairs(redis.call('HVALS', KEYS[3])) do reply[#reply + 1] = entry end
  end
end
redis.call('HSET', KEYS[3], ARGV[4], ARGV[5])
redis.call('ZADD', KEYS[2], text, ARGV[4])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber('@LOGGED@'))
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[1])
redis.call('PUBLISH', KEYS[4], text .. ' ' .. ARGV[3])
return reply
""".replace("@LOGGED@", str(LOGGED))
)

# KEYS: version, log, ledger, changes. ARGV: TTL, known version, change, then request ids and entries in turn.
# Returns 0 when the version is another by now. A request that has ended stays away, but counts.
PROMOTE = (
    _VERSION
    + """
if number(KEYS[1]) ~= tonumber(ARGV[2]) then return 0 end
healed(KEYS[2], 'zset')
healed(KEYS[3], 'hash')
local version, text = advanced(KEYS[1], (#ARGV - 3) / 2)
for i = 4, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[3], ARGV[i]) == 1 then
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
    redis.call('ZADD', KEYS[2], string.format('%.0f', version - (#ARGV - i - 1) / 2), ARGV[i])
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[1])
redis.call('PUBLISH', KEYS[4], text .. ' ' .. ARGV[3])
return 1
"""
)

# KEYS: ledger, changes. ARGV: TTL, change, then request ids and entries in turn.
ADD = (
    _HEALED
    + """
healed(KEYS[1], 'hash')
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[2], '0 ' .. ARGV[2])
return 1
"""
)

# KEYS: ledger, changes. ARGV: change, then request ids.
REMOVE = (
    _HEALED
    + """
healed(KEYS[1], 'hash')
for i = 2, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
redis.call('PUBLISH', KEYS[2], '0 ' .. ARGV[1])
return 1
"""
)

# KEYS: version, log, ledger. Returns the version ('0': none), and ids and entries in turn.
LOAD = (
    _HEALED
    + """
healed(KEYS[1], 'string')
healed(KEYS[2], 'zset')
healed(KEYS[3], 'hash')
return {string.format('%.0f', number(KEYS[1]) or 0), redis.call('HGETALL', KEYS[3])}
"""
)

# KEYS: epoch, plan. ARGV: epoch, plan, TTL of plans, TTL. Returns the newest epoch: the plan's own if it was published.
PLAN = (
    _HEALED
    + """
local newest = number(KEYS[1])
if newest and newest >= tonumber(ARGV[1]) then return string.format('%.0f', newest) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[4])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return ARGV[1]
"""
)
