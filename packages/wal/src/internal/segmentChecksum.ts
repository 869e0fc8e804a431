/**
 * CRC-32C of a run of any length inside of a buffer: what the record of a segment carries.
 *
 * A record is mostly short, and the native call would cost more than all the rest of it (see `crc32cShort.ts`, which
 * takes multiples of 8 bytes only: the few bytes behind them go one by one here).
 *
 * @internal
 */
import { crc32c } from "@tidemark/platform/Checksum"
import { crc32cOfRun } from "./crc32cShort.ts"

/** Below so many bytes nothing is allocated; above, one view of the run, for the native call. */
const nativeFromBytes = 512

/** What a byte makes of an empty register: the checksum of that byte, continued from the one whose register is empty. */
const table = Int32Array.from({ length: 256 }, (_, byte) => ~crc32c(Uint8Array.of(byte), 0xffffffff))

/** The CRC-32C of [from, to). `view` shows the same bytes as `bytes`. */
export const crc32cOfRange = (bytes: Uint8Array, view: DataView, from: number, to: number): number => {
  if (to - from >= nativeFromBytes) return crc32c(bytes.subarray(from, to))
  const tail = to - ((to - from) & 7)
  let register = ~crc32cOfRun(bytes, view, from, tail, 0)
  for (let at = tail; at < to; at++) {
    // No index is out of bounds; `?? 0` says so to the compiler.
    register = (register >>> 8) ^ (table[(register ^ view.getUint8(at)) & 0xff] ?? 0)
  }
  return ~register >>> 0
}
