-- What Envoy's routes cannot say: which endpoint a path is for, whether the caller may ask, the request's id.
-- Runs in each of Envoy's threads with a state of its own. The credential goes to the router's process, which holds
-- digests and public keys; what it accepted is remembered here for a few seconds, and not beyond the route's
-- generation. `headgate-admitted` is set last: a run that broke off leads to a route that says 401.

local SUFFIX = "@SUFFIX@" -- of hosts that are endpoints; empty: by path only
local REMEMBERED_S = @REMEMBERED_S@
local MOST = 4096 -- credentials remembered by one thread
local MAX_CREDENTIAL = 8192

local seed = io.open("/dev/urandom", "rb")
local a, b, c, d, e, f = seed:read(6):byte(1, 6)
seed:close()
math.randomseed(((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f)

local accepted, count = {}, 0

local function place(path, host)
  -- The endpoint and the path below it; nil: it is not for scoring. CONNECT has no path, HTTP/1.0 may have no host.
  if not path then
    return nil
  end
  if path:sub(1, 11) == "/endpoints/" then
    local name, rest = path:match("^/endpoints/([^/?]*)/(.*)$")
    return name, rest
  end
  host = (host or ""):lower():gsub(":%d*$", "")
  if SUFFIX ~= "" and #host > #SUFFIX and host:sub(-#SUFFIX) == SUFFIX then
    return host:sub(1, -#SUFFIX - 1), path:sub(2)
  end
end

local function request_id()
  return string.format("%08x%08x%08x%08x", math.random(0, 0xffffffff), math.random(0, 0xffffffff),
    math.random(0, 0xffffffff), math.random(0, 0xffffffff))
end

local function identify(handle, headers)
  local id = headers:get("x-ms-request-id")
  if not id or #id > 128 or not id:match("^[%w._-]+$") then
    headers:replace("x-ms-request-id", request_id())
  end
  local client = headers:get("x-ms-client-request-id")
  if client and #client <= 256 and client:match("^[\33-\126]+$") then
    handle:streamInfo():dynamicMetadata():set("headgate", "client_id", client)
  end
end

local function may_ask(handle, headers, name, generation)
  -- nil: yes; else the answer's fields and body.
  local credential = headers:get("authorization")
  if headers:getNumValues("authorization") ~= 1 or #credential > MAX_CREDENTIAL then
    credential = ""
  end
  local key = name .. " " .. generation .. " " .. credential
  local until_ms = accepted[key]
  local now = handle:timestamp()
  if until_ms and now < until_ms then
    return nil
  end
  local said, body = handle:httpCall("headgate", {
    [":method"] = "POST", [":path"] = "/admit/" .. name, [":authority"] = "control.headgate",
    ["authorization"] = credential ~= "" and credential or "none",
  }, "", 2000)
  if said[":status"] == "204" then
    if count >= MOST then
      accepted, count = {}, 0
    end
    accepted[key], count = now + REMEMBERED_S * 1000, count + 1
    return nil
  end
  headers = handle:headers() -- those of before the call are not to be touched again
  local fields = {[":status"] = said[":status"], ["content-type"] = "application/json",
    ["x-ms-request-id"] = headers:get("x-ms-request-id")}
  for _, field in ipairs({"www-authenticate", "retry-after"}) do
    fields[field] = said[field]
  end
  return fields, body
end

local function odd(handle, headers)
  -- It asks to speak WebSocket, in a way that no handshake does.
  if not headers:get("upgrade") then
    return false
  end
  return headers:get(":method") ~= "GET" or headers:get("content-length") or headers:get("transfer-encoding")
    or handle:streamInfo():protocol() ~= "HTTP/1.1"
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  local name, rest = place(path, headers:get(":authority") or "")
  if not name or (headers:get(":method") == "GET" and rest:match("^[^?]*") == "swagger.json") then
    if name then
      headers:replace(":path", "/endpoints/" .. name .. "/swagger.json")
    end
    headers:replace(":authority", "pages.headgate")
    handle:clearRouteCache()
    return
  end
  identify(handle, headers)
  local host = "unknown.headgate"
  if name:match("^[%w-]+$") then
    host = name:gsub("%u", function(letter) return "_" .. letter:lower() end) -- hosts have no case, names do
  end
  headers:replace(":authority", host)
  handle:clearRouteCache()
  local generation = handle:metadata():get("generation")
  if not generation then
    return -- the route says that there is no such endpoint
  end
  local fields, body = may_ask(handle, headers, name, generation)
  if fields then
    handle:respond(fields, body)
    return
  end
  headers = handle:headers()
  local below, query = rest:match("^([^?]*)(.*)$")
  if below == "score" then
    headers:replace("headgate-score", "yes")
  end
  headers:replace(":path", "/" .. below .. query)
  if headers:getNumValues("azureml-model-deployment") > 1 then
    headers:replace("azureml-model-deployment", "more than once") -- which is no deployment's name
  end
  headers:replace("headgate-admitted", "yes")
  handle:clearRouteCache()
  if odd(handle, headers) then
    handle:respond({[":status"] = "400", ["x-ms-request-id"] = headers:get("x-ms-request-id")}, "")
  end
end
