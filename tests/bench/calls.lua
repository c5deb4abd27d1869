-- What wrk sends, and how it looks at what comes back.
-- Arguments: file of the body, least length of a good answer, text that a good answer has.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  file:close()
  least, text = tonumber(args[2]), args[3]
  good, bad, first_bad = 0, 0, ""
  request_bytes = wrk.format()
end

function request()
  return request_bytes
end

function response(status, headers, body)
  if status == 200 and #body >= least and string.find(body, text, 1, true) then
    good = good + 1
  else
    bad = bad + 1
    if bad == 1 then
      first_bad = status .. " " .. string.sub(body, 1, 200)
    end
  end
end

function done(summary, latency, requests)
  local good, bad, first_bad = 0, 0, ""
  for _, thread in ipairs(threads) do
    good = good + thread:get("good")
    bad = bad + thread:get("bad")
    first_bad = thread:get("first_bad")
  end
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  print(string.format(
    "RESULT %d %d %d %d %d %d %s",
    good, bad, lost, summary.duration, latency:percentile(50), latency:percentile(99), (first_bad:gsub("%s+", " "))
  ))
end
