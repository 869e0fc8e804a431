import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Layer } from "effect"
import { EventJournal } from "effect/eventlog"
import * as LogEventJournal from "../src/LogEventJournal.ts"
import { eventJournalContract } from "./EventJournalContract.ts"

eventJournalContract("Effect's memory layer", () => EventJournal.layerMemory)

eventJournalContract("LogEventJournal", () =>
  LogEventJournal.layerDirectory({ directory: "/journal" }).pipe(
    Layer.provide(MemoryVfs.layerDisk(MemoryDisk.make()))
  ))

// Segments of a few records: every test runs across snapshots and truncations.
eventJournalContract(
  "LogEventJournal with a log that is always too long",
  () =>
    LogEventJournal.layerDirectory({
      directory: "/journal",
      segmentBytes: 512,
      snapshotMinBytes: 0,
      snapshotRatio: 0.01
    })
      .pipe(Layer.provide(MemoryVfs.layerDisk(MemoryDisk.make())))
)
