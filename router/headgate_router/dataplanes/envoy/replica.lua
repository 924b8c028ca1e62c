-- Between Envoy's router and a model: the revision's own scoring path, and 424 for what is no 2xx.
-- Sees only what models say, never an answer of Envoy's own.

local REASONS = {
  [300] = "Multiple Choices", [301] = "Moved Permanently", [302] = "Found", [303] = "See Other",
  [304] = "Not Modified", [307] = "Temporary Redirect", [308] = "Permanent Redirect", [400] = "Bad Request",
  [401] = "Unauthorized", [403] = "Forbidden", [404] = "Not Found", [405] = "Method Not Allowed",
  [406] = "Not Acceptable", [408] = "Request Timeout", [409] = "Conflict", [413] = "Content Too Large",
  [415] = "Unsupported Media Type", [422] = "Unprocessable Content", [429] = "Too Many Requests",
  [500] = "Internal Server Error", [501] = "Not Implemented", [502] = "Bad Gateway",
  [503] = "Service Unavailable", [504] = "Gateway Timeout",
}
local OURS = {
  "x-ms-request-id", "x-ms-client-request-id", "azureml-model-deployment", "headgate-revision",
  "headgate-generation", "ms-azureml-model-time", "ms-azureml-model-error-statuscode",
  "ms-azureml-model-error-reason", "keep-alive", "proxy-connection", "proxy-authenticate", "trailer",
}

function envoy_on_request(handle)
  local headers = handle:headers()
  local scoring = headers:get("headgate-path")
  if headers:get("headgate-score") and scoring then
    headers:replace(":path", scoring .. (headers:get(":path"):match("%?.*$") or ""))
  end
  headers:remove("headgate-score")
  headers:remove("headgate-path")
end

local function switched(headers)
  -- To WebSocket, and to nothing else.
  return headers:get(":status") == "101" and (headers:get("upgrade") or ""):lower() == "websocket"
    and (headers:get("connection") or ""):lower():find("upgrade", 1, true)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local tunnel = switched(headers)
  local named = headers:get("connection")
  if named then
    for name in named:gmatch("[^,%s]+") do
      if not (tunnel and name:lower() == "upgrade") then
        headers:remove(name)
      end
    end
  end
  for _, name in ipairs(OURS) do
    headers:remove(name)
  end
  if tunnel then
    return
  end
  local status = tonumber(headers:get(":status"))
  if status < 200 or status > 299 then
    headers:replace(":status", "424")
    headers:replace("ms-azureml-model-error-statuscode", tostring(status))
    headers:replace("ms-azureml-model-error-reason", REASONS[status] or "unknown")
  end
end
