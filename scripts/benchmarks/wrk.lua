-- Given a number as argument, POSTs a body of so many bytes; given "varied", asks for something else each time, so that
-- no two heads are the same. Prints the result as one line of JSON, times in microseconds.

function init(args)
   if args[1] == "varied" then
      local head, rest, asked = "GET " .. wrk.path .. "?", " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n\r\n", 0
      request = function()
         asked = asked + 1
         return head .. asked .. rest
      end
   elseif args[1] then
      wrk.method = "POST"
      wrk.body = string.rep("x", tonumber(args[1]))
      wrk.headers["Content-Type"] = "text/plain"
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   print(string.format(
      '\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, "non_2xx": %d, ' ..
      '"connect_errors": %d, "read_errors": %d, "write_errors": %d, "timeouts": %d}',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max, errors.status,
      errors.connect, errors.read, errors.write, errors.timeout))
end
