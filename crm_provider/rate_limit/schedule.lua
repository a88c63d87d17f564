-- The rule of schedule.py, step by step, with the clock of the Redis server.
--
-- KEYS[1]  the schedule, a hash
-- ARGV     "ask" or "pause", seconds until the key may expire, the constants as JSON, spacing, at_once, a time instead
--          of the server's or nothing; then lane, ticket and patience, or seconds and phase
-- returns  {status, seconds, ticket}; numbers as texts, because Redis truncates numbers to integers

local what, expiry = ARGV[1], ARGV[2]
local constants = cjson.decode(ARGV[3])
local grant_ahead, no_show_after, most_waiting = constants.grant_ahead, constants.no_show_after, constants.most_waiting
local longest_retry_delay, shortest_retry_delay = constants.longest_retry_delay, constants.shortest_retry_delay
local longest_pause = constants.longest_pause
local weights = constants.weights
local spacing, at_once = tonumber(ARGV[4]), tonumber(ARGV[5])
local GRANTED, RETRY_AFTER, REJECTED = "0", "1", "2"

local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
if ARGV[6] ~= "" then
  now = tonumber(ARGV[6]) -- a test's clock
end

-- read

local stored = {}
local raw = redis.call("HGETALL", KEYS[1])
for i = 1, #raw, 2 do
  local number = tonumber(raw[i + 1])
  if number and math.abs(number) < 1e15 then -- not NaN or infinite: others may write here, too
    stored[raw[i]] = number
  end
end

local asked, following = stored.asked or 0, stored.next or 0
local moved, virtual = stored.moved or 0, stored.virtual or 0
local queues = {}
for i = 1, #weights do
  queues[i] = {
    head = stored["head" .. i] or 0,
    tail = stored["tail" .. i] or 0,
    start = stored["start" .. i] or 0,
    alive = stored["alive" .. i] or 0,
  }
end

-- heal

local back = math.max(asked - now, 0)
asked = now
following = math.min(following - back, now + longest_pause + grant_ahead + 2 * spacing)
moved = math.min(moved - back, now)
for i = 1, #queues do
  local queue = queues[i]
  queue.alive = math.min(queue.alive - back, now + longest_retry_delay + no_show_after)
  queue.head = queue.tail - queue.head > most_waiting and queue.tail or math.min(queue.head, queue.tail)
end

-- write

local function exact(number)
  return string.format("%.17g", number)
end

local function save()
  local fields = {
    "asked", exact(asked), "next", exact(following), "moved", exact(moved), "virtual", exact(virtual),
  }
  for i = 1, #queues do
    for name, value in pairs(queues[i]) do
      fields[#fields + 1] = name .. i
      fields[#fields + 1] = exact(value)
    end
  end
  redis.call("HSET", KEYS[1], unpack(fields))
  redis.call("EXPIRE", KEYS[1], expiry)
end

local function result(status, seconds, ticket)
  save()
  return { status, exact(seconds), exact(ticket) }
end

if what == "pause" then
  following = math.max(following, now + tonumber(ARGV[7])) + tonumber(ARGV[8])
  return result(GRANTED, 0, 0)
end

-- ask

local own, ticket, patience = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local queue, weight = queues[own], weights[own]

local joins = ticket < 0 or ticket >= queue.tail
if joins and queue.alive <= now then
  queue.head = queue.tail
  queue.start = math.max(queue.start, virtual)
end
if joins then
  ticket = queue.tail
end

local before = math.max(ticket - queue.head, 0)
local starts = queue.start + before / weight
local rivals = {}
for i = 1, #queues do
  local other = queues[i]
  if i ~= own and other.alive > now then
    local lead = (starts - other.start) * weights[i]
    local calls = i < own and math.floor(lead) + 1 or math.ceil(lead)
    calls = math.min(math.max(calls, 0), math.max(other.tail - other.head, 1))
    before = before + calls
    if calls > 0 then
      rivals[#rivals + 1] = other
    end
  end
end

local slot = math.max(following, now - (at_once - 1) * spacing)
local wait = math.max(slot - now, 0)
local likely = wait + before * spacing
if (joins and likely or wait) > patience then
  return result(REJECTED, likely, ticket)
end
if joins then
  queue.tail = queue.tail + 1
end

local opens = slot - grant_ahead
local given_up = math.max(opens, moved) + no_show_after
if now >= opens + before * spacing or now >= given_up then
  following = slot + spacing
  virtual = math.max(virtual, queue.start)
  queue.start = queue.start + 1 / weight
  queue.head = math.max(queue.head, ticket + 1)
  if queue.head == queue.tail then
    queue.alive = 0
  end
  if before > 0 and now >= given_up then
    for i = 1, #rivals do
      rivals[i].alive = 0
    end
  end
  moved = now
  return result(GRANTED, wait, ticket)
end

local delay = math.max(opens - now, 0) + before * spacing
if before == 1 then
  delay = math.min(delay, given_up - now)
end
delay = math.min(math.max(delay, shortest_retry_delay), longest_retry_delay)
queue.alive = math.max(queue.alive, now + delay + no_show_after)
return result(RETRY_AFTER, delay, ticket)
