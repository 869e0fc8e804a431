/**
 * What XXH3-64 and CRC-32C cost, by package and length (decision 0002).
 *
 *     node benchmarks/checksums.ts [--candidates DIRECTORY] [--json]
 *
 * Without `--candidates` only what this repository uses is measured. With it, the packages `hash-wasm` and
 * `xxhash-addon` are loaded from that directory's `node_modules`, when they are there.
 */
import { crc32c, xxh3 } from "@tidemark/platform/Checksum"
import { createRequire } from "node:module"
import * as NodePath from "node:path"
import { parseArgs } from "node:util"
import { crc32 as zlibCrc32 } from "node:zlib"

const { values } = parseArgs({ options: { candidates: { type: "string" }, json: { type: "boolean", default: false } } })

type Hash = (bytes: Uint8Array) => unknown

interface WasmHasher {
  readonly init: () => void
  readonly update: (bytes: Uint8Array) => void
  readonly digest: (format: "binary") => Uint8Array
}

const toBigInt = (digest: Uint8Array) => new DataView(digest.buffer, digest.byteOffset, 8).getBigUint64(0)

const functions = new Map<string, Hash>([
  ["crc32c: @node-rs/crc32", (bytes) => crc32c(bytes)],
  ["crc32 (another polynomial): node:zlib", (bytes) => zlibCrc32(bytes)],
  ["xxh3: @node-rs/xxhash", xxh3]
])

if (values.candidates !== undefined) {
  const loadCandidate = createRequire(NodePath.join(NodePath.resolve(values.candidates), "candidates.cjs"))
  // Not dependencies of this repository: what their documentation says about the two functions that are used.
  const { createXXHash3 } = loadCandidate("hash-wasm") as { readonly createXXHash3: () => Promise<WasmHasher> }
  const { XXHash3 } = loadCandidate("xxhash-addon") as {
    readonly XXHash3: { readonly hash: (bytes: Uint8Array) => Uint8Array }
  }
  const wasm = await createXXHash3()
  functions.set("xxh3: hash-wasm", (bytes) => {
    wasm.init()
    wasm.update(bytes)
    return toBigInt(wasm.digest("binary"))
  })
  functions.set("xxh3: xxhash-addon", (bytes) => toBigInt(XXHash3.hash(bytes)))
}

const filled = (length: number) => Uint8Array.from({ length }, (_, index) => index * 31 + (index >> 8))

// The XXH3s agree, or there is nothing to compare.
for (const length of [0, 1, 16, 80, 144, 241, 4096]) {
  const results = new Set(
    [...functions].filter(([name]) => name.startsWith("xxh3")).map(([, hash]) => hash(filled(length)))
  )
  if (results.size !== 1) throw new Error(`the implementations of XXH3 differ at ${length} bytes`)
}

const rounds = 9
const rows = [80, 4096, 65_536].flatMap((length) => {
  const bytes = filled(length)
  const calls = Math.ceil(20_000_000 / (length + 2000))
  const nanos = new Map<string, Array<number>>()
  for (let round = 0; round < rounds; round++) {
    for (const [name, hash] of functions) {
      const started = performance.now()
      for (let call = 0; call < calls; call++) hash(bytes)
      nanos.set(name, [...nanos.get(name) ?? [], (performance.now() - started) * 1_000_000 / calls])
    }
  }
  return [...nanos].map(([name, durations]) => {
    const sorted = durations.toSorted((a, b) => a - b)
    const median = sorted[rounds >> 1] ?? Number.NaN
    return {
      bytes: length,
      name,
      medianNanos: Math.round(median),
      spreadNanos: Math.round((sorted.at(-1) ?? Number.NaN) - (sorted[0] ?? Number.NaN)),
      gigabytesPerSecond: Number((length / median).toFixed(2))
    }
  })
})

if (values.json) console.log(JSON.stringify(rows))
else console.table(rows)
