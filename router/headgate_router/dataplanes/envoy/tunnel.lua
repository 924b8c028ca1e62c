-- Of a tunnel: who says Close first. Frames of either direction are followed from head to head (RFC 6455, 5.2); of a
-- payload nothing is read. What it finds goes into the line that the log has of the tunnel.

local CLOSE = 8

local function wanted(head)
  -- Bytes of the whole head, as far as these say.
  if #head < 2 then
    return 2
  end
  local masked, short = math.floor(head:byte(2) / 128), head:byte(2) % 128
  return 2 + (short == 126 and 2 or short == 127 and 8 or 0) + 4 * masked
end

local function payload(head)
  local short, length = head:byte(2) % 128, 0
  if short < 126 then
    return short
  end
  for at = 3, short == 126 and 4 or 10 do
    length = length * 256 + head:byte(at)
  end
  return length
end

local function note(handle, who)
  local known = handle:streamInfo():dynamicMetadata()
  local said = known:get("headgate")
  if not (said and said["close"]) then
    known:set("headgate", "close", who)
  end
end

local function follow(handle, who)
  local head, left = "", 0 -- of a frame that is not whole; bytes of a payload to come
  for chunk in handle:bodyChunks() do
    local at, size = 0, chunk:length()
    while at < size do
      if left > 0 then
        local step = math.min(left, size - at)
        left, at = left - step, at + step
      else
        local before = #head
        head = head .. chunk:getBytes(at, math.min(14 - before, size - at))
        local need = wanted(head)
        if #head < need then
          at = size
        else
          if head:byte(1) % 16 == CLOSE then
            note(handle, who)
            return
          end
          left, at, head = payload(head), at + need - before, ""
        end
      end
    end
  end
end

function envoy_on_request(handle)
  follow(handle, "caller")
end

function envoy_on_response(handle)
  if handle:headers():get(":status") == "101" then
    follow(handle, "model")
  end
end
