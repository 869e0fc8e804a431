/**
 * The checksums of the formats (`formats.md` section 1): CRC-32C (Castagnoli), XXH3-64 and BLAKE3-256.
 *
 * **Details**
 *
 * Hot paths call the plain functions. The service is for programs that want to bring their own implementation of the
 * same functions. One call costs about 100 ns before it looks at the first byte (BLAKE3 about 1 us): check a block at
 * once, not field by field. Which packages compute them, and why, stands in decisions 0002 and 0012.
 *
 * @since 0.1.0
 */
import { blake3 as nativeBlake3 } from "@napi-rs/blake-hash"
import { crc32c as nativeCrc32c } from "@node-rs/crc32"
import { xxh3 as nativeXxh3 } from "@node-rs/xxhash"
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"

/**
 * CRC-32C of the bytes, 0 ... 2^32 - 1. With `previous` it continues: `crc32c(b, crc32c(a))` is the CRC-32C of `a`
 * followed by `b`.
 *
 * **Example** (The check value)
 *
 * ```ts
 * import { crc32c } from "@tidemark/platform/Checksum"
 *
 * const bytes = new TextEncoder().encode("123456789")
 * crc32c(bytes).toString(16) // => "e3069283"
 * crc32c(bytes.subarray(4), crc32c(bytes.subarray(0, 4))).toString(16) // => "e3069283"
 * ```
 *
 * @category checksums
 * @since 0.1.0
 */
export const crc32c = (bytes: Uint8Array, previous?: number): number => nativeCrc32c(bytes, previous)

/**
 * XXH3 with 64 bits (seed 0) of the bytes, 0 ... 2^64 - 1.
 *
 * **Example** (The check value)
 *
 * ```ts
 * import { xxh3 } from "@tidemark/platform/Checksum"
 *
 * xxh3(new Uint8Array(0)).toString(16) // => "2d06800538d394c2"
 * ```
 *
 * @category checksums
 * @since 0.1.0
 */
export const xxh3 = (bytes: Uint8Array): bigint => nativeXxh3.xxh64(bytes)

/**
 * BLAKE3 of the bytes: 32 bytes.
 *
 * **Example** (The check value)
 *
 * ```ts
 * import { blake3 } from "@tidemark/platform/Checksum"
 *
 * Buffer.from(blake3(new Uint8Array(0)).subarray(0, 8)).toString("hex") // => "af1349b9f5f9a1a6"
 * ```
 *
 * @category checksums
 * @since 0.1.0
 */
export const blake3 = (bytes: Uint8Array): Uint8Array => nativeBlake3(bytes)

/**
 * The checksums as a service.
 *
 * @category services
 * @since 0.1.0
 */
export class Checksum extends Context.Service<Checksum, {
  /** {@link crc32c} */
  readonly crc32c: (bytes: Uint8Array, previous?: number) => number
  /** {@link xxh3} */
  readonly xxh3: (bytes: Uint8Array) => bigint
  /** {@link blake3} */
  readonly blake3: (bytes: Uint8Array) => Uint8Array
}>()("@tidemark/platform/Checksum") {
  /** Computed by native code (prebuilt, no compiler needed at installation). */
  static readonly layer: Layer.Layer<Checksum> = Layer.succeed(Checksum, Checksum.of({ blake3, crc32c, xxh3 }))
}
