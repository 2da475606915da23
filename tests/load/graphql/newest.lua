-- Sends the requests of a file in random order and counts the answers that are not right.
--
-- wrk … -s newest.lua URL -- FILE ROWS: FILE has whole HTTP requests, each with a record separator behind it. A right
-- answer has status 200 and ROWS e-mail addresses. Prints one line of JSON.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  requests, wrong, example = {}, 0, ''
  local file = assert(io.open(arguments[1], 'rb'))
  for one in file:read('*a'):gmatch('([^\30]+)\30') do
    table.insert(requests, one)
  end
  file:close()
  rows = tonumber(arguments[2])
  math.randomseed(os.time())
end

function request()
  return requests[math.random(#requests)]
end

local function addresses(body)
  local count, from = 0, 1
  while true do
    local _, last = body:find('"email"', from, true)
    if not last then
      return count
    end
    count, from = count + 1, last + 1
  end
end

function response(status, _, body)
  if status ~= 200 or addresses(body) ~= rows then
    wrong = wrong + 1
    example = status .. ' ' .. body:sub(1, 300):gsub('[%c"\\]', ' ')
  end
end

function done(summary, latency)
  local all, shown = 0, ''
  for _, thread in ipairs(threads) do
    all = all + thread:get('wrong')
    shown = all > 0 and thread:get('example') or shown
  end
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "micros": %d, "p50_micros": %d, "p99_micros": %d, "wrong": %d, "example": "%s", "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), all, shown,
    errors.connect + errors.read + errors.write + errors.timeout))
end
