from render_farm.engine.bench.main import main

if __name__ == "__main__":
    main()
